"""What a job starts from: settings, the model, its data, and both made ready."""
