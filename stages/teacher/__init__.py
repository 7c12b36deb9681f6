"""Stage one: queries and an unlearning prefix in, a frozen cache of Top-K raw logits out."""
