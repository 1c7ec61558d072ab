-- Which verdicts were the closest?
-- $most = 50: rows at most
SELECT s.position, a.scene, a.action, a.role, a.feasible, a.log_odds, a.text, a.reason
FROM action a JOIN scenes s ON lower(hex(s.scene)) = a.scene
WHERE a.log_odds IS NOT NULL
ORDER BY abs(a.log_odds), s.position, a.ordinal
LIMIT $most
