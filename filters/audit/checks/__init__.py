"""The checks of the audit, one module each; `filters.audit.registry` lists them in order."""
