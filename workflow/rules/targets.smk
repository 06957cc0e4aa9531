for target in (*TABLES, *FIGURES):

    rule:
        name:
            target
        input:
            target_files(target),
        localrule: True


rule report:
    """The page alone, with all that it needs."""
    input:
        "<results>/report/index.html",
    localrule: True
