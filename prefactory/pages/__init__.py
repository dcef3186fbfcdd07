"""What HTML pages share: frame, style, script, words and pictures."""
