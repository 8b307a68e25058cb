"""The linear form: the loss of hidden states and a weight."""
