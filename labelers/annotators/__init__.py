"""What many annotators said, as one label, groups or ideal points."""
