"""Model files: finding them, vetting them, rendering their chat templates."""
