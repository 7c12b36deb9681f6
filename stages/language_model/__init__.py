"""What every stage needs of a language model: its folder, its prompts, and engines that continue them."""
