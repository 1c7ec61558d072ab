-- Scenes as the run's input listed them: all, or those of these ids.
SELECT s.scene, s.label, s.row, s.occurrence, instruction.text, response.text, s.meta::VARCHAR
FROM scenes s
JOIN texts instruction ON instruction.hash = s.instruction
LEFT JOIN texts response ON response.hash = s.response
WHERE $1::BLOB[] IS NULL OR s.scene IN (SELECT unnest($1::BLOB[]))
ORDER BY s.position
