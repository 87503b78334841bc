"""The ground under all rooms: errors, inputs, files, progress, several processes, plain data."""
