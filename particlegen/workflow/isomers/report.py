def run_report(job):
    pass
