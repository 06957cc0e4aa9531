"""Images or clouds with captions, on which language and vision models are compared (Eq. 4)."""
