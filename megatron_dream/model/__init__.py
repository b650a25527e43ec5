"""The transformer: megatron-core's GPTModel with bidirectional attention and a head on masked rows."""
