"""What a job looks at before it builds anything: the nodes, by name (``megatron-dream check-nodes``)."""
