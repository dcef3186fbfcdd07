"""LLM judges: answers rated or compared under a rubric, polled, counted and relabelled."""
