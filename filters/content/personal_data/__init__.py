"""Personal data: found, dropped or masked."""
