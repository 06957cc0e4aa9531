rule all:
    """Every table, figure and the page that shows them."""
    default_target: True
    input:
        everything(),
        "<results>/report/index.html",
    localrule: True


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
