"""Labels of prompts: tags, quality, anchored scores."""
