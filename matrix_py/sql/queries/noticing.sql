-- Where does nobody notice what takes place, and where does everybody?
SELECT
    a.step,
    a.depth,
    count(*) AS actions,
    count(*) FILTER (len(a.recipients) = 0) AS nobody,
    count(*) FILTER (len(a.recipients) = others.number) AS everybody,
    round(avg(len(a.recipients)), 2) AS recipients
FROM action a
JOIN (
    SELECT lower(hex(scene)) AS scene, count(*) - 1 AS number FROM events WHERE kind = 'RoleCast' GROUP BY events.scene
) others USING (scene)
WHERE a.took_place AND others.number > 0
GROUP BY ALL
ORDER BY a.step, a.depth
