"""`kind: glass`: schema, stages and opened runs of glass workflows."""
