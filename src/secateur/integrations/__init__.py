"""Methods at work in other people's training loops: Lightning's, and that of the Hugging Face Trainer."""
