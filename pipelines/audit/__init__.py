"""What `reelmill audit` is made of: findings, files, one tar, one unit, one mixture."""
