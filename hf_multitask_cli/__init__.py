"""What the scripts answer and refuse at once. It is not in `hf_multitask`, whose import takes torch's seconds."""
