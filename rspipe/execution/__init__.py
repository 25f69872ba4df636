"""Ray alone: connection, resources, set-up of workers, the progress board, groups of workers, failures."""
