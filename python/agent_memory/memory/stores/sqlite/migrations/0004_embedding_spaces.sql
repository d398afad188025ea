-- Of which model the vectors are: the space with the greatest number counts, and vectors of versions below its first_version are
-- of an earlier one. A vector of one byte stands for one that could not be made yet.
CREATE TABLE embedding_spaces (
    number INTEGER PRIMARY KEY,
    model TEXT NOT NULL,                    -- empty: not told
    dimensions INTEGER NOT NULL,
    first_version INTEGER NOT NULL,
    is_complete INTEGER NOT NULL            -- whether all memories have got vectors of it
) STRICT;
INSERT INTO embedding_spaces SELECT 1, '', dimensions, 0, 1 FROM (
    SELECT length(vector) / (CASE element WHEN 1 THEN 2 ELSE 4 END) AS dimensions FROM vectors LIMIT 10000
) GROUP BY dimensions ORDER BY count(*) DESC, dimensions LIMIT 1;
CREATE INDEX vectors_pending ON vectors (row_id) WHERE length(vector) < 2;
