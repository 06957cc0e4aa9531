"""The workflow, for calls in the root of a clone: profiles are looked for next to this file."""

# `include:` would leave it without the default target, which is all that a bare call asks for.
workflow.include("workflow/Snakefile", overwrite_default_target=True)
