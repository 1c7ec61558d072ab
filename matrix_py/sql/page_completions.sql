SELECT completions.scene, completions.path, completions.attempt, completions.request, texts.text, completions.outcome, completions.finish
FROM completions JOIN page USING (scene)
LEFT JOIN texts ON texts.hash = completions.text
