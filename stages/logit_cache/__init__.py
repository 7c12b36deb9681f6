"""The seam between the stages: a frozen folder of Top-K raw logits. Imports no other stage."""
