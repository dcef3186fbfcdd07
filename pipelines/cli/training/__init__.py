"""Commands about models: `train`, `evaluate`, `drift`, `models`."""
