"""What the programs of `examples/` share. A program imports from here, nothing here from a program.

Each folder is a room with one subject; its `__init__.py` says what lives there, what it may import,
and where to start reading. From the lowest to the highest, of which each imports from lower ones:

    ranks          several processes that torchrun has started, as one program
    settings       what a run depends on: options, presets, the command line
    data           data sets, and the batches of a search
    networks       search spaces, supernets, the networks of a GAN
    optimization   optimizers, hypergradients, the options of the engine
    results        rows with test errors, baselines, the printed table
    retraining     a derived network from scratch, and its test error
    search         a search through the stages of its space
    pipeline       whole runs: search, derive, retrain, test, report
    tables         tables of papers: many runs, and what comes of them
    launchers      where the runs of a table are made: here, in several processes, on a cluster

Start with a program, such as `lfm_cw_darts.py`, or with search/search.py.
"""
