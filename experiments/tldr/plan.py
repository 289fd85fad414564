def show(options):
    pass
