CREATE TABLE station (
    id INTEGER PRIMARY KEY,
    name VARCHAR(64) NOT NULL UNIQUE,
    latitude NUMERIC(8, 5) NOT NULL,
    longitude NUMERIC(8, 5) NOT NULL
);

CREATE TABLE reading (
    station_id INTEGER NOT NULL REFERENCES station (id) ON DELETE CASCADE,
    taken_at TIMESTAMP WITH TIME ZONE NOT NULL,
    level_m NUMERIC(5, 2) NOT NULL,
    PRIMARY KEY (station_id, taken_at)
);

CREATE INDEX reading_taken_at ON reading (taken_at);

INSERT INTO station (id, name, latitude, longitude) VALUES
    (11, 'Brest', 48.383, -4.495),
    (12, 'Roscoff', 48.718, -3.965);

SELECT s.name, MAX(r.level_m) AS highest
FROM station AS s
JOIN reading AS r ON r.station_id = s.id
WHERE r.taken_at >= CURRENT_DATE - INTERVAL '7 days'
GROUP BY s.name
ORDER BY highest DESC;
