for request, request_files in PLAN.requests().items():

    rule:
        name:
            request
        input:
            request_files,
        localrule: True


rule report:
    """The page alone, with all that it needs."""
    input:
        "<results>/report/index.html",
    localrule: True
