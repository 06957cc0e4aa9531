"""The workflow, for calls in the root of a clone: profiles are looked for next to this file."""


include: "workflow/Snakefile"
