"""Engines that run Beam jobs elsewhere: how they are asked, and how their worker processes start."""
