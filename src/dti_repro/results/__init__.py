"""What a run leaves behind: folders, embeddings, scores, tables and figures."""
