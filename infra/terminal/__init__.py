"""Text for a person's terminal. Every line that is printed passes through here, directly or by the console."""

from infra.terminal.escaping import escape_controls, escape_json
from infra.terminal.stderr import protect_stderr, write_error, write_line

__all__ = ["escape_controls", "escape_json", "protect_stderr", "write_error", "write_line"]
