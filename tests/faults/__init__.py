"""What may go wrong, done on purpose; nothing may be lost."""
