-- Which casts recur, whatever the order of their roles?
-- $most = 50: rows at most
SELECT roles, count(*) AS scenes, min(position) AS first
FROM (
    SELECT s.position, list_sort(list(lower(e.payload ->> 'role'))) AS roles
    FROM events e JOIN scenes s USING (scene)
    WHERE e.kind = 'RoleCast'
    GROUP BY s.scene, s.position
)
GROUP BY roles
HAVING count(*) > 1
ORDER BY scenes DESC, first
LIMIT $most
