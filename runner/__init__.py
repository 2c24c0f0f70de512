"""The GPU side: a week in a child process, watched, and always one result.json."""
