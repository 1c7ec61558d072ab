SELECT events.scene, events.seq, events.payload, events.hash
FROM events JOIN page USING (scene)
ORDER BY events.scene, events.seq
