-- The entries of this node's change log in version order: whose, when drawn, what they hold,
-- and what their author had seen.  For those who look into the log; rows are in changes().
CREATE FUNCTION cozesync.entries(after timestamptz DEFAULT NULL)
RETURNS TABLE (origin text, hlc timestamptz, xid bigint, kind text, changes bigint,
               bytes bigint, seen jsonb)
AS 'MODULE_PATHNAME', 'coze_entries'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.entries(timestamptz) IS 'entries of the change log above a time: origin, hlc, kind, size, and the vector that was seen';
-- It tells who wrote how much and when.
REVOKE ALL ON FUNCTION cozesync.entries(timestamptz) FROM PUBLIC;
