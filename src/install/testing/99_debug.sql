-- Only in test builds: places to stop at, rules to take out.  For the whole server.
CREATE FUNCTION cozesync.debug_stop(point text, only_first boolean DEFAULT false, who text DEFAULT 'all') RETURNS void
AS 'MODULE_PATHNAME', 'coze_debug_stop' LANGUAGE C STRICT;
CREATE FUNCTION cozesync.debug_go(point text) RETURNS void
AS 'MODULE_PATHNAME', 'coze_debug_go' LANGUAGE C STRICT;
CREATE FUNCTION cozesync.debug_waiting(point text) RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_debug_waiting' LANGUAGE C STRICT;
CREATE FUNCTION cozesync.debug_rule(rule text, off boolean) RETURNS void
AS 'MODULE_PATHNAME', 'coze_debug_rule' LANGUAGE C STRICT;
CREATE FUNCTION cozesync.debug_clock(ahead interval) RETURNS void
AS 'MODULE_PATHNAME', 'coze_debug_clock' LANGUAGE C STRICT;
REVOKE ALL ON FUNCTION cozesync.debug_stop(text, boolean, text), cozesync.debug_go(text),
    cozesync.debug_waiting(text), cozesync.debug_rule(text, boolean), cozesync.debug_clock(interval) FROM PUBLIC;
