-- Settling conflicts by hand.

-- A conflict was settled: on every node its record is closed.  Of several settlements the last counts,
-- in whatever order they arrive.
CREATE FUNCTION cozesync.on_settlement() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE cozesync.conflict AS c
    SET outcome = 'resolved', result_row = NEW.result_row, resolved_at = NEW.settled_at, resolved_by = NEW.settled_by
    WHERE c.schema_name = NEW.schema_name AND c.table_name = NEW.table_name AND c.key = NEW.key
      AND md5(c.key::text) = md5(NEW.key::text) AND c.loser_origin = NEW.loser_origin AND c.loser_hlc = NEW.loser_hlc
      AND NOT EXISTS (
          SELECT FROM cozesync.settlement AS s
          WHERE s.loser_origin = NEW.loser_origin AND s.loser_hlc = NEW.loser_hlc AND s.schema_name = NEW.schema_name
            AND s.table_name = NEW.table_name AND s.key = NEW.key
            AND (s.settled_at, s.settlement_id) > (NEW.settled_at, NEW.settlement_id));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION cozesync.on_settlement() IS 'closes the records of a conflict that was settled';

CREATE TRIGGER on_settlement AFTER INSERT OR UPDATE ON cozesync.settlement
    FOR EACH ROW EXECUTE FUNCTION cozesync.on_settlement();
ALTER TABLE cozesync.settlement ENABLE ALWAYS TRIGGER on_settlement;

-- The condition by which a row has a key, as SQL with the key as $1.
CREATE FUNCTION cozesync.key_condition(relation regclass, key jsonb) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('(%s) = (SELECT %s FROM jsonb_populate_record(NULL::%s, $1) AS k)',
                  string_agg(format('t.%I', c), ', ' ORDER BY c), string_agg(format('k.%I', c), ', ' ORDER BY c), relation)
    FROM jsonb_object_keys(key) AS c;
$$;
COMMENT ON FUNCTION cozesync.key_condition(regclass, jsonb) IS 'SQL that finds the row with a key';

-- Write a row, or delete it (NULL), whether or not there is one with the key.
CREATE FUNCTION cozesync.write_row(relation regclass, key jsonb, new_row jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    condition text := cozesync.key_condition(relation, key);
    columns text;
    assignments text;
    written bigint;
BEGIN
    IF new_row IS NULL THEN
        EXECUTE format('DELETE FROM %s AS t WHERE %s', relation, condition) USING key;
        RETURN;
    END IF;
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
           string_agg(format('%I = r.%I', a.attname, a.attname), ', ' ORDER BY a.attnum)
               FILTER (WHERE NOT key ? a.attname AND a.attidentity <> 'a')
    INTO columns, assignments
    FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    EXECUTE format('UPDATE %s AS t SET %s FROM jsonb_populate_record(NULL::%s, $2) AS r WHERE %s', relation,
                   coalesce(assignments, (SELECT format('%I = t.%I', min(c), min(c)) FROM jsonb_object_keys(key) AS c)),
                   relation, condition) USING key, new_row;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written = 0 THEN
        EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM jsonb_populate_record(NULL::%s, $1) AS r',
                       relation, columns, columns, relation) USING new_row;
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.write_row(regclass, jsonb, jsonb) IS 'insert, update or delete the row with a key';

-- Settle a held conflict, or decide a settled one anew: take the row of one side, as this
-- node's record names them, or another (NULL: delete).  An ordinary write, which reaches
-- every node.  If the row has changed since only 'row' is taken.
CREATE FUNCTION cozesync.resolve_conflict(conflict_id bigint, choice text, new_row jsonb DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    record_of cozesync.conflict;
    relation regclass;
    here jsonb;
    was jsonb;
    chosen jsonb;
    generated text[];
BEGIN
    PERFORM cozesync.check_may_change_group();
    IF choice IS NULL OR choice NOT IN ('local', 'remote', 'row') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('"%s" is not a choice', coalesce(choice, 'NULL')), HINT = 'Use local, remote or row.';
    ELSIF choice <> 'row' AND new_row IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('choice "%s" takes no row', choice), HINT = 'Use choice "row".';
    END IF;
    SELECT * INTO record_of FROM cozesync.conflict AS c WHERE c.id = conflict_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('there is no conflict %s', conflict_id), HINT = 'See cozesync.conflicts.';
    END IF;
    relation := cozesync.find_relation(record_of.schema_name, record_of.table_name);
    IF relation IS NULL OR NOT EXISTS (
        SELECT FROM cozesync.synced_table AS s
        WHERE s.schema_name = record_of.schema_name AND s.table_name = record_of.table_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table %I.%I is not under sync any more', record_of.schema_name, record_of.table_name);
    END IF;
    EXECUTE format('SELECT to_jsonb(t) FROM %s AS t WHERE %s FOR UPDATE', relation,
                   cozesync.key_condition(relation, record_of.key)) INTO here USING record_of.key;
    was := record_of.result_row;
    generated := ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                       WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> '');
    -- As values of the table's columns, so that no session's settings show.
    EXECUTE format('SELECT CASE WHEN $1 IS NULL THEN NULL ELSE to_jsonb(jsonb_populate_record(NULL::%s, $1)) END', relation)
        INTO was USING was;
    -- What is generated is not in the log.
    IF choice <> 'row' AND here - generated IS DISTINCT FROM was - generated THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'the row has changed since the conflict',
            HINT = 'Say what it is to be with choice "row".';
    END IF;
    chosen := CASE choice WHEN 'local' THEN record_of.local_row WHEN 'remote' THEN record_of.remote_row
                          ELSE coalesce(here, '{}') || record_of.key || new_row END;
    -- Where rows were merged only the columns that the conflict is about are chosen.
    IF choice <> 'row' AND record_of.columns IS NOT NULL THEN
        chosen := here || (SELECT jsonb_object_agg(c, chosen -> c) FROM unnest(record_of.columns) AS c);
    END IF;
    IF chosen IS NOT NULL AND NOT chosen @> record_of.key THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'the row must have the key of the conflict', HINT = format('That is %s.', record_of.key);
    END IF;
    PERFORM cozesync.write_row(relation, record_of.key, chosen);
    -- Who decides anew is later than who decided before, whatever the clocks say.
    INSERT INTO cozesync.settlement (schema_name, table_name, key, loser_origin, loser_hlc, choice, result_row, settled_by, settled_at)
    VALUES (record_of.schema_name, record_of.table_name, record_of.key, record_of.loser_origin, record_of.loser_hlc,
            resolve_conflict.choice, chosen, session_user,
            greatest(clock_timestamp(), record_of.resolved_at + interval '1 microsecond'));
END
$$;
COMMENT ON FUNCTION cozesync.resolve_conflict(bigint, text, jsonb) IS 'settle a conflict on all nodes with the row of one side or another one';

-- Conflicts hold rows of all tables.
REVOKE ALL ON FUNCTION cozesync.on_settlement(), cozesync.key_condition(regclass, jsonb),
    cozesync.write_row(regclass, jsonb, jsonb), cozesync.resolve_conflict(bigint, text, jsonb) FROM PUBLIC;
