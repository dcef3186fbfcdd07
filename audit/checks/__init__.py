"""The checks of the audit, one module each; `audit.registry` lists them in order."""
