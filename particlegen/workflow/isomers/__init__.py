"""`kind: isomers`: schema, stages and opened runs of workflows on isomers of clusters."""
