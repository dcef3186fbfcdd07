"""New prompts from prompts: evolved, wrapped, augmented, sampled."""
