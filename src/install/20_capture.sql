-- The row trigger.  It runs for every row, so no setting is pinned on it; it calls no SQL and
-- looks up nothing by an unqualified name.
CREATE FUNCTION cozesync.capture()
RETURNS trigger
AS 'MODULE_PATHNAME', 'coze_capture'
LANGUAGE C;
COMMENT ON FUNCTION cozesync.capture() IS 'trigger: captures the change of a row for the change log';

CREATE FUNCTION cozesync.capture_truncate()
RETURNS trigger
AS 'MODULE_PATHNAME', 'coze_capture_truncate'
LANGUAGE C;
COMMENT ON FUNCTION cozesync.capture_truncate() IS 'trigger: captures a TRUNCATE for the change log';
-- These two stay open to PUBLIC: whoever makes a partition of a synced table must be allowed to
-- execute what its triggers execute.  They can only be called as triggers, and to name them in
-- CREATE TRIGGER takes USAGE on this schema.

-- The triggers that a table has of us: its own, or those that it was given as a partition.
CREATE FUNCTION cozesync.has_trigger(relation regclass, name text, timing_before boolean)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid = relation AND t.tgname = name
            AND (t.tgtype::integer & 2 <> 0) = timing_before
            AND t.tgfoid IN ('cozesync.capture()'::regprocedure,
                             'cozesync.capture_truncate()'::regprocedure))
$$;
COMMENT ON FUNCTION cozesync.has_trigger(regclass, text, boolean) IS 'does the table have this trigger of the extension?';
REVOKE ALL ON FUNCTION cozesync.has_trigger(regclass, text, boolean) FROM PUBLIC;

-- Take all triggers of ours from a table, and from its partitions what they do not get from it.
CREATE FUNCTION cozesync.detach_capture(relation regclass)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT tg.tgrelid::regclass AS rel, tg.tgname AS name
        FROM pg_catalog.pg_trigger tg
        WHERE tg.tgparentid = 0
            AND tg.tgfoid IN ('cozesync.capture()'::regprocedure,
                              'cozesync.capture_truncate()'::regprocedure)
            AND (tg.tgrelid = relation
                 OR tg.tgrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(relation) p))
        ORDER BY tg.oid
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.name, t.rel);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.detach_capture(regclass) IS 'capture changes of a table no more';
-- Only who manages the group decides what is captured.
REVOKE ALL ON FUNCTION cozesync.detach_capture(regclass) FROM PUBLIC;

-- TRUNCATE of a partition alone is captured there, row by row, so each has a trigger of its own.
CREATE FUNCTION cozesync.attach_partition_triggers(relation regclass)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    leaf regclass;
BEGIN
    FOR leaf IN
        SELECT p.relid
        FROM pg_catalog.pg_partition_tree(relation) p
        WHERE p.isleaf
            AND EXISTS (SELECT FROM pg_catalog.pg_trigger t
                        WHERE t.tgrelid = p.relid AND t.tgname = '!cozesync_capture'
                            AND t.tgparentid <> 0
                            AND t.tgfoid = 'cozesync.capture()'::regprocedure)
            AND NOT cozesync.has_trigger(p.relid, '!cozesync_truncate', true)
        ORDER BY p.relid
    LOOP
        EXECUTE format('CREATE TRIGGER "!cozesync_truncate" BEFORE TRUNCATE ON %s'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION cozesync.capture_truncate()', leaf);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.attach_partition_triggers(regclass) IS 'give the partitions of a captured table their TRUNCATE triggers';
REVOKE ALL ON FUNCTION cozesync.attach_partition_triggers(regclass) FROM PUBLIC;

-- Capture the changes of a table from now on.  Does nothing if that is so already.
CREATE FUNCTION cozesync.attach_capture(relation regclass)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    partitioned boolean;
BEGIN
    SELECT c.relkind = 'p' INTO STRICT partitioned
    FROM pg_catalog.pg_class c WHERE c.oid = relation;
    IF NOT (cozesync.has_trigger(relation, '!cozesync_capture', false)
            AND cozesync.has_trigger(relation, '!cozesync_truncate', false)
            AND (cozesync.has_trigger(relation, '!cozesync_truncating', true) OR NOT partitioned))
    THEN
        -- It may have been a partition, or its partitions tables of their own.
        PERFORM cozesync.detach_capture(relation);
        EXECUTE format('CREATE TRIGGER "!cozesync_capture" AFTER INSERT OR UPDATE OR DELETE ON %s'
                       ' FOR EACH ROW EXECUTE FUNCTION cozesync.capture()', relation);
        EXECUTE format('CREATE TRIGGER "!cozesync_truncate" AFTER TRUNCATE ON %s'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION cozesync.capture_truncate()', relation);
        IF partitioned THEN
            EXECUTE format('CREATE TRIGGER "!cozesync_truncating" BEFORE TRUNCATE ON %s'
                           ' FOR EACH STATEMENT EXECUTE FUNCTION cozesync.capture_truncate()', relation);
        END IF;
    END IF;
    PERFORM cozesync.attach_partition_triggers(relation);
END
$$;
COMMENT ON FUNCTION cozesync.attach_capture(regclass) IS 'capture changes of a table';
REVOKE ALL ON FUNCTION cozesync.attach_capture(regclass) FROM PUBLIC;

-- The server gives new partitions the row trigger; their TRUNCATE trigger comes from here.
-- Runs with the rights of the extension's owner, since the schema is closed to who makes the
-- partition; it only touches tables on which that user has just put the row trigger.
CREATE FUNCTION cozesync.after_ddl()
RETURNS event_trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed regclass;
BEGIN
    FOR changed IN
        SELECT DISTINCT c.objid
        FROM pg_catalog.pg_event_trigger_ddl_commands() c
            JOIN pg_catalog.pg_class r ON r.oid = c.objid
        WHERE c.classid = 'pg_catalog.pg_class'::regclass
            AND (r.relispartition OR r.relkind = 'p')
            AND EXISTS (SELECT FROM pg_catalog.pg_trigger t
                        WHERE t.tgrelid = r.oid AND t.tgname = '!cozesync_capture')
    LOOP
        PERFORM cozesync.attach_partition_triggers(changed);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.after_ddl() IS 'event trigger: covers new partitions of captured tables';
REVOKE ALL ON FUNCTION cozesync.after_ddl() FROM PUBLIC;

CREATE EVENT TRIGGER cozesync_after_ddl ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE TABLE AS', 'SELECT INTO')
    EXECUTE FUNCTION cozesync.after_ddl();
COMMENT ON EVENT TRIGGER cozesync_after_ddl IS 'covers new partitions of tables captured by cozesync';

-- The change log as rows, in the order of versions.  Entries at or below the cut are there for
-- as long as they are kept.  Of an update, old_row is the old row if the table's policy needs it,
-- else the old values of key and unique columns that changed.  "superseded" has no effect of its
-- own: another row of the same transaction tells what the key came to.
-- Raises undefined_object if no member has the name.
CREATE FUNCTION cozesync.changes(
    after timestamptz DEFAULT NULL,
    INOUT origin text DEFAULT NULL,
    max_rows integer DEFAULT NULL,
    OUT hlc timestamptz,
    OUT xid bigint,
    OUT relation text,
    OUT operation text,
    OUT key jsonb,
    OUT old_row jsonb,
    OUT new_row jsonb
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'coze_changes'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.changes(timestamptz, text, integer) IS 'the change log of this node as rows';
-- It shows rows of every synced table.
REVOKE ALL ON FUNCTION cozesync.changes(timestamptz, text, integer) FROM PUBLIC;
