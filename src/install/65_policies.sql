-- Conflict policies: setting them, trying them out.  A call writes the complete set of the
-- table's rules as a new version; see cozesync.rule.

CREATE VIEW cozesync.rules_in_force AS
SELECT r.* FROM cozesync.rule AS r
WHERE (r.version_hlc, r.version_origin) = (
    SELECT o.version_hlc, o.version_origin FROM cozesync.rule AS o
    WHERE o.schema_name = r.schema_name AND o.table_name = r.table_name
    ORDER BY o.version_hlc DESC, o.version_origin DESC LIMIT 1);
COMMENT ON VIEW cozesync.rules_in_force IS 'of each table the rules of its highest policy version';

-- Small steps in C.

-- The clock of this node, as bigint.
CREATE FUNCTION cozesync.policy_clock() RETURNS bigint
AS 'MODULE_PATHNAME', 'coze_policy_clock'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.policy_clock() IS 'an hlc above all that this node has seen';

CREATE FUNCTION cozesync.is_comparable(type regtype, only_equality boolean) RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_policy_is_comparable'
LANGUAGE C STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.is_comparable(regtype, boolean) IS 'has a type an order, or at least equality?';

CREATE FUNCTION cozesync.resolver_digest(resolver regprocedure) RETURNS text
AS 'MODULE_PATHNAME', 'coze_policy_resolver_digest'
LANGUAGE C STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.resolver_digest(regprocedure) IS 'digest of the definition of a function';

-- What another node has under that name; empty if nothing.
CREATE FUNCTION cozesync.describe_resolver(signature text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(cozesync.resolver_digest(to_regprocedure(signature)), '');
$$;
COMMENT ON FUNCTION cozesync.describe_resolver(text) IS 'for peers: digest of the definition of a function, empty if there is none';

CREATE FUNCTION cozesync.describe_resolver_on(node_name text, dsn text, signature text) RETURNS text
AS 'MODULE_PATHNAME', 'coze_group_describe_resolver_on'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.describe_resolver_on(text, text, text) IS 'describe_resolver() as another node answers';

-- What would come of two concurrent operations under a set of rules; NULL: no row.
CREATE FUNCTION cozesync.try_fold(relation regclass, rules cozesync.rule[], base record, earlier record, later record,
    earlier_hlc bigint, earlier_origin bigint, later_hlc bigint, later_origin bigint,
    OUT result jsonb, OUT outcome text)
AS 'MODULE_PATHNAME', 'coze_policy_try_fold'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.try_fold(regclass, cozesync.rule[], record, record, record, bigint, bigint, bigint, bigint) IS
    'what would come of two concurrent operations under a set of rules';

-- Checks.  Each raises an error that says what is wrong.

-- The table as cozesync.synced_table names it.
CREATE FUNCTION cozesync.check_synced(relation regclass, OUT schema_name text, OUT table_name text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'the table must not be NULL';
    END IF;
    SELECT s.schema_name, s.table_name INTO check_synced.schema_name, check_synced.table_name
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN cozesync.synced_table AS s ON s.schema_name = n.nspname AND s.table_name = c.relname
    WHERE c.oid = relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table "%s" is not under sync', relation),
            HINT = CASE WHEN (SELECT relispartition FROM pg_class WHERE oid = relation)
                        THEN 'Name the partitioned table that it is a partition of.'
                        ELSE 'Put it under sync with cozesync.add_table().' END;
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_synced(regclass) IS 'an error unless a table is under sync; returns its name';

-- A column that a rule may name.
CREATE FUNCTION cozesync.check_rule_column(relation regclass, column_name name) RETURNS pg_attribute
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    a pg_attribute;
BEGIN
    SELECT * INTO a FROM pg_attribute AS x
    WHERE x.attrelid = relation AND x.attname = column_name AND x.attnum > 0 AND NOT x.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column',
            MESSAGE = format('column "%s" of table "%s" does not exist', coalesce(column_name, 'NULL'), relation);
    ELSIF a.attgenerated <> '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_column_reference',
            MESSAGE = format('column "%s" of table "%s" is generated', column_name, relation),
            HINT = 'Choose a column that it is made of.';
    END IF;
    RETURN a;
END
$$;
COMMENT ON FUNCTION cozesync.check_rule_column(regclass, name) IS 'an error unless a conflict rule may name the column';

CREATE FUNCTION cozesync.check_version_column(relation regclass, column_name name) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    a pg_attribute;
BEGIN
    IF column_name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'policy "highest_version" needs a version_column',
            HINT = 'Pass version_column, a column that is NOT NULL and whose type has an order.';
    END IF;
    a := cozesync.check_rule_column(relation, column_name);
    IF NOT a.attnotnull THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_column_definition',
            MESSAGE = format('version_column "%s" of table "%s" can be NULL', column_name, relation),
            HINT = 'Declare it NOT NULL.';
    ELSIF NOT cozesync.is_comparable(a.atttypid, false) THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('version_column "%s" of table "%s" cannot be compared', column_name, relation),
            DETAIL = format('Type %s has no order.', format_type(a.atttypid, a.atttypmod)),
            HINT = 'Choose a column whose type has an order, such as bigint or timestamptz.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_version_column(regclass, name) IS 'an error unless rows can be ranked by the column';

CREATE FUNCTION cozesync.check_node_order(node_order text[]) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong text;
BEGIN
    IF coalesce(cardinality(node_order), 0) = 0 OR array_position(node_order, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'policy "node_order" needs node_order, the names of nodes',
            HINT = 'Pass node_order, first the node whose writes stay.';
    END IF;
    SELECT n INTO wrong FROM unnest(node_order) AS n GROUP BY n HAVING count(*) > 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('node "%s" is in node_order twice', wrong), HINT = 'Name each node once.';
    END IF;
    SELECT n INTO wrong FROM unnest(node_order) AS n
    WHERE NOT EXISTS (SELECT FROM cozesync.member AS m WHERE m.node_name = n AND m.dropped_at IS NULL) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('there is no node "%s" in this group', wrong), HINT = 'See cozesync.nodes.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_node_order(text[]) IS 'an error unless these are members of the group, each once';

-- Every other member must have the same function.
CREATE FUNCTION cozesync.check_resolver_everywhere(resolver regprocedure) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    here text := cozesync.resolver_digest(check_resolver_everywhere.resolver);
    there text;
    other record;
BEGIN
    FOR other IN
        SELECT m.node_name, m.dsn FROM cozesync.member AS m
        WHERE m.dropped_at IS NULL AND m.origin <> (SELECT n.origin FROM cozesync.local_node AS n)
        ORDER BY m.node_name
    LOOP
        IF other.dsn IS NULL THEN
            RAISE WARNING 'node "%" cannot be asked whether it has resolver %, since it has no DSN', other.node_name,
                check_resolver_everywhere.resolver;
            CONTINUE;
        END IF;
        there := cozesync.describe_resolver_on(other.node_name, other.dsn, check_resolver_everywhere.resolver::text);
        IF there = '' THEN
            RAISE EXCEPTION USING ERRCODE = 'undefined_function',
                MESSAGE = format('resolver %s does not exist on node "%s"', check_resolver_everywhere.resolver, other.node_name),
                HINT = 'Create it on every node first, with the same definition.';
        ELSIF there <> here THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('resolver %s is not the same on node "%s"', check_resolver_everywhere.resolver, other.node_name),
                HINT = 'Create it on every node with the same definition.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.check_resolver_everywhere(regprocedure) IS 'an error unless every other member has the same function';

CREATE FUNCTION cozesync.check_resolver(relation regclass, resolver regprocedure) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p pg_proc;
    t pg_class;
BEGIN
    IF resolver IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'policy "resolver" needs a resolver';
    END IF;
    SELECT * INTO p FROM pg_proc AS x WHERE x.oid = resolver;
    SELECT * INTO t FROM pg_class AS x WHERE x.oid = relation;
    IF p.prokind <> 'f' OR p.proretset OR p.provariadic <> 0 OR p.prorettype <> t.reltype
        OR p.proargtypes::oid[]::text <> format('[0:3]={%s,%s,%s,%s}', t.reltype, t.reltype, t.reltype, 'text'::regtype::oid) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_function_definition',
            MESSAGE = format('function %s cannot be a resolver of table "%s"', resolver, relation),
            DETAIL = format('It must be a function (earlier %1$s, later %1$s, base %1$s, conflict_type text) that returns %1$s.', relation);
    ELSIF p.provolatile <> 'i' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_function_definition',
            MESSAGE = format('resolver %s is not IMMUTABLE', resolver),
            DETAIL = 'Every node must make the same of the same rows.';
    ELSIF NOT has_function_privilege(t.relowner, p.oid, 'EXECUTE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('the owner of table "%s" may not execute resolver %s', relation, resolver),
            HINT = 'A resolver runs with the rights of the table''s owner: grant him EXECUTE on it.';
    END IF;
    PERFORM cozesync.check_resolver_everywhere(resolver);
END
$$;
COMMENT ON FUNCTION cozesync.check_resolver(regclass, regprocedure) IS 'an error unless a function can decide conflicts of a table on every node';

-- The words themselves, and that nothing is given which the policy does not use.
CREATE FUNCTION cozesync.check_policy_words(policy text, conflict_type text, version_column name, node_order text[],
    resolver regprocedure)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unused text := CASE WHEN version_column IS NOT NULL AND policy <> 'highest_version' THEN 'version_column'
                        WHEN node_order IS NOT NULL AND policy <> 'node_order' THEN 'node_order'
                        WHEN resolver IS NOT NULL AND policy <> 'resolver' THEN 'resolver' END;
BEGIN
    IF policy IS NULL OR policy NOT IN ('last_update_wins', 'first_update_wins', 'highest_version', 'node_order',
                                        'merge', 'resolver', 'hold') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('"%s" is not a conflict policy', coalesce(policy, 'NULL')),
            HINT = 'Use last_update_wins, first_update_wins, highest_version, node_order, merge, resolver or hold.';
    ELSIF conflict_type NOT IN ('insert_exists', 'update_update', 'update_deleted', 'delete_updated',
                                'unique_violation', 'truncate_write') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('no policy can be set for conflict type "%s"', conflict_type),
            HINT = 'Use insert_exists, update_update, update_deleted, delete_updated, unique_violation or truncate_write.';
    ELSIF conflict_type = 'unique_violation' AND policy NOT IN ('first_update_wins', 'last_update_wins') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('policy "%s" cannot decide a unique_violation', policy),
            HINT = 'Use first_update_wins or last_update_wins.';
    ELSIF unused IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('policy "%s" takes no %s', policy, unused), HINT = 'Leave it out.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_policy_words(text, text, name, text[], regprocedure) IS 'an error unless a policy, type and options fit together';

-- The rules of the table as they would be with a rule for rows.
CREATE FUNCTION cozesync.rules_with_policy(relation regclass, policy text, conflict_type text, version_column name,
    node_order text[], resolver regprocedure)
RETURNS cozesync.rule[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    named record;
    new_rule cozesync.rule;
    default_rule cozesync.rule;
    rules cozesync.rule[];
    twice text;
BEGIN
    SELECT * INTO named FROM cozesync.check_synced(rules_with_policy.relation);
    PERFORM cozesync.check_policy_words(rules_with_policy.policy, rules_with_policy.conflict_type,
        rules_with_policy.version_column, rules_with_policy.node_order, rules_with_policy.resolver);
    CASE rules_with_policy.policy
        WHEN 'highest_version' THEN
            PERFORM cozesync.check_version_column(rules_with_policy.relation, rules_with_policy.version_column);
        WHEN 'node_order' THEN
            PERFORM cozesync.check_node_order(rules_with_policy.node_order);
        WHEN 'resolver' THEN
            PERFORM cozesync.check_resolver(rules_with_policy.relation, rules_with_policy.resolver);
        ELSE NULL;
    END CASE;
    new_rule.schema_name := named.schema_name;
    new_rule.table_name := named.table_name;
    default_rule := new_rule;
    default_rule.policy := 'last_update_wins';
    new_rule.conflict_type := rules_with_policy.conflict_type;
    new_rule.policy := rules_with_policy.policy;
    new_rule.version_column := rules_with_policy.version_column;
    new_rule.node_order := rules_with_policy.node_order;
    new_rule.resolver := rules_with_policy.resolver::text;
    new_rule.resolver_digest := cozesync.resolver_digest(rules_with_policy.resolver);
    SELECT coalesce(array_agg(r), '{}') INTO rules FROM cozesync.rules_in_force AS r
    WHERE r.schema_name = named.schema_name AND r.table_name = named.table_name
      AND (r.column_name IS NOT NULL
           OR CASE WHEN rules_with_policy.conflict_type IS NULL THEN r.conflict_type = 'unique_violation'
                   ELSE r.conflict_type IS DISTINCT FROM rules_with_policy.conflict_type END);
    rules := rules || new_rule;
    IF NOT EXISTS (SELECT FROM unnest(rules) AS r WHERE r.column_name IS NULL AND r.conflict_type IS NULL) THEN
        rules := rules || default_rule;
    END IF;
    IF NOT EXISTS (SELECT FROM unnest(rules) AS r WHERE r.column_name IS NULL AND r.policy = 'merge') THEN
        IF EXISTS (SELECT FROM unnest(rules) AS r WHERE r.column_name IS NOT NULL) THEN
            RAISE NOTICE 'rules for columns of table "%" are dropped, since its rows are not merged any more',
                rules_with_policy.relation;
        END IF;
        rules := ARRAY(SELECT r FROM unnest(rules) AS r WHERE r.column_name IS NULL);
    END IF;
    SELECT CASE WHEN count(DISTINCT r.version_column) > 1 THEN 'version_column'
                WHEN count(DISTINCT r.node_order) > 1 THEN 'node_order'
                WHEN count(DISTINCT r.resolver) > 1 THEN 'resolver' END INTO twice FROM unnest(rules) AS r;
    IF twice IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('table "%s" has another %s for another conflict type', rules_with_policy.relation, twice),
            DETAIL = format('A table has one %s for all types that use it.', twice),
            HINT = 'A resolver is told the conflict type.  Set the other type to another policy first.';
    END IF;
    RETURN rules;
END
$$;
COMMENT ON FUNCTION cozesync.rules_with_policy(regclass, text, text, name, text[], regprocedure) IS 'the rules of a table as they would be with another rule for rows';

CREATE FUNCTION cozesync.check_column_policy(relation regclass, column_name name, policy text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    a pg_attribute;
    base regtype;
    shown text;
    misfit text;
BEGIN
    IF policy IS NULL OR policy NOT IN ('last_update_wins', 'delta', 'max', 'min', 'json_merge', 'set_merge', 'hold') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('"%s" is not a column policy', coalesce(policy, 'NULL')),
            HINT = 'Use last_update_wins, delta, max, min, json_merge, set_merge or hold.';
    END IF;
    a := cozesync.check_rule_column(relation, column_name);
    shown := format_type(a.atttypid, a.atttypmod);
    WITH RECURSIVE d (oid, typtype, typbasetype) AS (
        SELECT t.oid, t.typtype, t.typbasetype FROM pg_type AS t WHERE t.oid = a.atttypid
        UNION ALL SELECT t.oid, t.typtype, t.typbasetype FROM d JOIN pg_type AS t ON t.oid = d.typbasetype WHERE d.typtype = 'd')
    SELECT oid INTO base FROM d WHERE typtype <> 'd';
    IF a.attnum = ANY (SELECT unnest(i.indkey::int2[]) FROM pg_index AS i WHERE i.indexrelid = cozesync.key_index(relation)) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_column_reference',
            MESSAGE = format('column "%s" of table "%s" is part of its key', column_name, relation),
            DETAIL = 'Rows are merged that have the same key.';
    END IF;
    misfit := CASE
        WHEN policy = 'delta' AND base NOT IN ('int2'::regtype, 'int4', 'int8', 'numeric', 'float4', 'float8')
            THEN 'It adds numbers: smallint, integer, bigint, numeric, real, double precision.'
        WHEN policy = 'json_merge' AND base <> 'jsonb'::regtype THEN 'It merges jsonb.'
        WHEN policy = 'set_merge' AND NOT EXISTS (
            SELECT FROM pg_type AS t WHERE t.oid = base AND t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc
               AND cozesync.is_comparable(t.typelem, true)) THEN 'It merges arrays of a type that has equality.'
        WHEN policy IN ('max', 'min') AND NOT cozesync.is_comparable(base, false) THEN 'The type has no order.' END;
    IF misfit IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('column policy "%s" does not fit column "%s" of type %s', policy, column_name, shown),
            DETAIL = misfit;
    ELSIF policy IN ('delta', 'json_merge', 'set_merge') AND EXISTS (
        SELECT FROM pg_index AS i WHERE i.indrelid = relation AND i.indisunique
           AND a.attnum = ANY (i.indkey::int2[])) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_column_reference',
            MESSAGE = format('column "%s" of table "%s" belongs to a unique index', column_name, relation),
            DETAIL = 'A unique value is never made of two.', HINT = 'Use last_update_wins, max, min or hold.';
    ELSIF policy IN ('delta', 'json_merge', 'set_merge') AND base <> a.atttypid AND EXISTS (
        WITH RECURSIVE d (oid, typtype, typbasetype, typnotnull) AS (
            SELECT t.oid, t.typtype, t.typbasetype, t.typnotnull FROM pg_type AS t WHERE t.oid = a.atttypid
            UNION ALL SELECT t.oid, t.typtype, t.typbasetype, t.typnotnull FROM d JOIN pg_type AS t ON t.oid = d.typbasetype
            WHERE d.typtype = 'd')
        SELECT FROM d WHERE d.typtype = 'd' AND (d.typnotnull OR EXISTS (SELECT FROM pg_constraint AS k WHERE k.contypid = d.oid))) THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('column policy "%s" does not fit column "%s" of type %s', policy, column_name, shown),
            DETAIL = 'The domain has constraints, which a value that is made of two may not satisfy.',
            HINT = 'Put the constraint on the table instead: where the result would not satisfy it the later row stays.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_column_policy(regclass, name, text) IS 'an error unless a column policy fits a column';

-- The rules of the table as they would be with a rule for a column.
CREATE FUNCTION cozesync.rules_with_column_policy(relation regclass, column_name name, policy text)
RETURNS cozesync.rule[]
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    named record;
    new_rule cozesync.rule;
    rules cozesync.rule[];
BEGIN
    SELECT * INTO named FROM cozesync.check_synced(rules_with_column_policy.relation);
    PERFORM cozesync.check_column_policy(rules_with_column_policy.relation, rules_with_column_policy.column_name,
                                         rules_with_column_policy.policy);
    SELECT coalesce(array_agg(r), '{}') INTO rules FROM cozesync.rules_in_force AS r
    WHERE r.schema_name = named.schema_name AND r.table_name = named.table_name
      AND r.column_name IS DISTINCT FROM rules_with_column_policy.column_name::text;
    IF NOT EXISTS (SELECT FROM unnest(rules) AS r WHERE r.column_name IS NULL AND r.policy = 'merge') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('rows of table "%s" are not merged', rules_with_column_policy.relation),
            DETAIL = 'A column policy says what becomes of a column where rows are merged.',
            HINT = format('First SELECT cozesync.set_conflict_policy(%L, ''merge'').', rules_with_column_policy.relation);
    END IF;
    IF rules_with_column_policy.policy <> 'last_update_wins' THEN
        new_rule.schema_name := named.schema_name;
        new_rule.table_name := named.table_name;
        new_rule.column_name := rules_with_column_policy.column_name;
        new_rule.policy := rules_with_column_policy.policy;
        rules := rules || new_rule;
    END IF;
    RETURN rules;
END
$$;
COMMENT ON FUNCTION cozesync.rules_with_column_policy(regclass, name, text) IS 'the rules of a table as they would be with another rule for a column';

-- Put a complete set of rules in force.
CREATE FUNCTION cozesync.put_rules(rules cozesync.rule[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now timestamptz := clock_timestamp();
    version bigint := greatest(cozesync.policy_clock(), (
        SELECT max(r.version_hlc) + 1 FROM cozesync.rule AS r
        WHERE r.schema_name = rules[1].schema_name AND r.table_name = rules[1].table_name));
BEGIN
    INSERT INTO cozesync.rule (schema_name, table_name, version_hlc, version_origin, column_name, conflict_type, policy,
                               version_column, node_order, resolver, resolver_digest, since)
    SELECT r.schema_name, r.table_name, version, (SELECT n.origin FROM cozesync.local_node AS n), r.column_name,
           r.conflict_type, r.policy, r.version_column, r.node_order, r.resolver, r.resolver_digest,
           -- a rule that stays keeps its date
           coalesce((SELECT f.since FROM cozesync.rules_in_force AS f
                     WHERE f.schema_name = r.schema_name AND f.table_name = r.table_name
                       AND (f.column_name, f.conflict_type, f.policy, f.version_column, f.node_order, f.resolver, f.resolver_digest)
                           IS NOT DISTINCT FROM (r.column_name, r.conflict_type, r.policy, r.version_column, r.node_order,
                                                 r.resolver, r.resolver_digest)), now)
    FROM unnest(rules) AS r;
END
$$;
COMMENT ON FUNCTION cozesync.put_rules(cozesync.rule[]) IS 'puts a complete set of rules of a table in force on every node';

-- Two calls for one table, one after the other.
CREATE FUNCTION cozesync.lock_rules(relation regclass) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT FROM cozesync.synced_table AS s, cozesync.check_synced(relation) AS n
    WHERE s.schema_name = n.schema_name AND s.table_name = n.table_name FOR NO KEY UPDATE OF s;
$$;
COMMENT ON FUNCTION cozesync.lock_rules(regclass) IS 'has other calls that change the rules of a table wait';

-- The rule for a table, for one type of conflict or all (NULL; unique_violation has one of its
-- own).  A transaction decides by the rule that was in force when it first wrote to the table.
CREATE FUNCTION cozesync.set_conflict_policy(relation regclass, policy text, conflict_type text DEFAULT NULL,
    version_column name DEFAULT NULL, node_order text[] DEFAULT NULL, resolver regprocedure DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM cozesync.check_may_change_group();
    PERFORM cozesync.lock_rules(relation);
    PERFORM cozesync.put_rules(cozesync.rules_with_policy(relation, policy, conflict_type, version_column, node_order, resolver));
END
$$;
COMMENT ON FUNCTION cozesync.set_conflict_policy(regclass, text, text, name, text[], regprocedure) IS
    'set how conflicts of a table are decided, on every node';

-- The rule for a column where rows are merged.
CREATE FUNCTION cozesync.set_column_policy(relation regclass, column_name name, policy text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM cozesync.check_may_change_group();
    PERFORM cozesync.lock_rules(relation);
    PERFORM cozesync.put_rules(cozesync.rules_with_column_policy(relation, column_name, policy));
END
$$;
COMMENT ON FUNCTION cozesync.set_column_policy(regclass, name, text) IS
    'set what becomes of a column that both sides changed where rows are merged, on every node';

-- What a policy would have made of the logged conflicts of a table.  Left out are those over
-- unique values and with a TRUNCATE, and, where the policy wants to know what both sides had
-- seen, those that were logged without it.
CREATE FUNCTION cozesync.try_policy(relation regclass, policy text, conflict_type text DEFAULT NULL,
    version_column name DEFAULT NULL, node_order text[] DEFAULT NULL, resolver regprocedure DEFAULT NULL,
    since timestamptz DEFAULT NULL)
RETURNS TABLE (conflict_id bigint, was jsonb, would_be jsonb, outcome text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    rules cozesync.rule[];
    named record;
    c cozesync.conflict;
    later_is_remote boolean;
    tried record;
    left_out bigint := 0;
BEGIN
    PERFORM cozesync.check_may_change_group();
    rules := cozesync.rules_with_policy(try_policy.relation, try_policy.policy, try_policy.conflict_type,
        try_policy.version_column, try_policy.node_order, try_policy.resolver);
    SELECT * INTO named FROM cozesync.check_synced(try_policy.relation);
    FOR c IN
        SELECT * FROM cozesync.conflict AS x
        WHERE x.schema_name = named.schema_name AND x.table_name = named.table_name
          AND (try_policy.since IS NULL OR x.detected_at >= try_policy.since)
          AND (try_policy.conflict_type IS NULL OR x.conflict_type = try_policy.conflict_type)
        ORDER BY x.id
    LOOP
        IF c.conflict_type NOT IN ('insert_exists', 'update_update', 'update_deleted', 'delete_updated')
            OR c.local_hlc IS NULL OR c.remote_hlc IS NULL
            OR c.base_row IS NULL AND c.conflict_type <> 'insert_exists' AND try_policy.policy IN ('merge', 'resolver') THEN
            left_out := left_out + 1;
            CONTINUE;
        END IF;
        later_is_remote := (c.remote_hlc, c.remote_origin) > (c.local_hlc, c.local_origin);
        EXECUTE format('SELECT f.* FROM cozesync.try_fold($1, $2, CASE WHEN $3 IS NOT NULL THEN jsonb_populate_record(NULL::%1$s, $3) END,'
                       ' CASE WHEN $4 IS NOT NULL THEN jsonb_populate_record(NULL::%1$s, $4) END,'
                       ' CASE WHEN $5 IS NOT NULL THEN jsonb_populate_record(NULL::%1$s, $5) END, $6, $7, $8, $9) AS f', try_policy.relation)
        INTO tried
        USING try_policy.relation, rules, c.base_row,
              CASE WHEN later_is_remote THEN c.local_row ELSE c.remote_row END,
              CASE WHEN later_is_remote THEN c.remote_row ELSE c.local_row END,
              least(c.local_hlc, c.remote_hlc), CASE WHEN later_is_remote THEN c.local_origin ELSE c.remote_origin END,
              greatest(c.local_hlc, c.remote_hlc), CASE WHEN later_is_remote THEN c.remote_origin ELSE c.local_origin END;
        conflict_id := c.id;
        was := c.result_row;
        would_be := tried.result;
        outcome := tried.outcome;
        RETURN NEXT;
    END LOOP;
    IF left_out > 0 THEN
        RAISE NOTICE 'conflicts left out, since their rows do not tell what the policy would need: %', left_out;
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.try_policy(regclass, text, text, name, text[], regprocedure, timestamptz) IS
    'what a policy would have made of the logged conflicts of a table; changes nothing';

-- Only who manages the group may decide how conflicts are decided.
REVOKE ALL ON cozesync.rules_in_force FROM PUBLIC;
REVOKE ALL ON FUNCTION cozesync.policy_clock(), cozesync.is_comparable(regtype, boolean),
    cozesync.resolver_digest(regprocedure), cozesync.describe_resolver(text),
    cozesync.describe_resolver_on(text, text, text),
    cozesync.try_fold(regclass, cozesync.rule[], record, record, record, bigint, bigint, bigint, bigint),
    cozesync.check_synced(regclass), cozesync.check_rule_column(regclass, name),
    cozesync.check_version_column(regclass, name), cozesync.check_node_order(text[]),
    cozesync.check_resolver_everywhere(regprocedure), cozesync.check_resolver(regclass, regprocedure),
    cozesync.check_policy_words(text, text, name, text[], regprocedure),
    cozesync.rules_with_policy(regclass, text, text, name, text[], regprocedure),
    cozesync.check_column_policy(regclass, name, text),
    cozesync.rules_with_column_policy(regclass, name, text), cozesync.put_rules(cozesync.rule[]),
    cozesync.lock_rules(regclass),
    cozesync.set_conflict_policy(regclass, text, text, name, text[], regprocedure),
    cozesync.set_column_policy(regclass, name, text),
    cozesync.try_policy(regclass, text, text, name, text[], regprocedure, timestamptz) FROM PUBLIC;
