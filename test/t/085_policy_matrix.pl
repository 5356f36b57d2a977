# Every row policy for every type of conflict, with every column policy, on three nodes which get
# each other's writes in orders of arrival made up at random: all nodes have the same rows and the same
# conflict log, and both are what the model (test/model.py) makes of the log.
#
# The tables are the model's: a column a column policy, a second unique key, a CHECK that merges may
# violate.  Some are partitioned (without the second unique key) and truncated.
#
# SEED and ROUNDS in the environment.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use RandomWork qw(pick);
use Test::More;

plan skip_all => 'no python3' if system('command -v python3 >/dev/null') != 0;

my $seed = $ENV{SEED} || (time ^ $$);
my $rounds = $ENV{ROUNDS} || 5;
note "SEED=$seed ROUNDS=$rounds";
srand $seed;

my @nodes = qw(a b c);
my @policies = qw(last_update_wins first_update_wins highest_version node_order merge resolver hold);
my @types = qw(insert_exists update_update update_deleted delete_updated truncate_write);
my @keys = 1 .. 4;
my $server = apply_server('matrix', @nodes);
sql($_, q{ALTER DATABASE } . $_ . q{ SET client_min_messages = error}) for @nodes;
$server->append_conf('postgresql.conf', "cozesync.log_retention = '1d'\ncozesync.beat_interval = '100ms'");
$server->reload;

# --- tables ---

my %tables;                     # name => policies as the oracle gets them

sub make_table
{
    my ($name, $row, $unique, $by_type, $partitioned) = @_;
    my @order = sort { rand() <=> 0.5 } @nodes;
    $tables{$name} = [ $row, $unique, \@order, $by_type ];
    everywhere($name, "CREATE TABLE $name (id int PRIMARY KEY, a int NOT NULL DEFAULT 0, n int NOT NULL DEFAULT 0,
            m int NOT NULL DEFAULT 0, l int NOT NULL DEFAULT 0, s text[] NOT NULL DEFAULT '{}', h int NOT NULL DEFAULT 0,
            v int NOT NULL DEFAULT 0, u text" . ($partitioned ? '' : ' UNIQUE') . ", j jsonb NOT NULL DEFAULT '{}', CHECK (NOT (a = 3 AND h = 3)))"
        . ($partitioned ? " PARTITION BY HASH (id);
            CREATE TABLE ${name}_0 PARTITION OF $name FOR VALUES WITH (MODULUS 2, REMAINDER 0);
            CREATE TABLE ${name}_1 PARTITION OF $name FOR VALUES WITH (MODULUS 2, REMAINDER 1)" : '') . ";
        CREATE FUNCTION resolve_$name(earlier $name, later $name, base $name, conflict_type text) RETURNS $name
        LANGUAGE plpgsql IMMUTABLE AS \$\$
        DECLARE
            x int := coalesce(earlier.n, 3) + coalesce(later.n, 5);
            r public.$name := CASE WHEN later IS NULL THEN earlier ELSE later END;
        BEGIN
            x := (x % 5 + 5) % 5;
            IF x = 0 THEN RETURN NULL; END IF;
            IF x = 1 OR earlier IS NULL AND later IS NULL THEN r.id := NULL; RETURN r; END IF;
            IF earlier.id IS NOT NULL AND later.id IS NOT NULL THEN
                r.a := earlier.a;
                r.n := earlier.n + later.n - coalesce(base.n, 0);
            END IF;
            RETURN r;
        END \$\$");
    my %options = (highest_version => ", version_column => 'v'",
        node_order => ', node_order => ARRAY[' . join(', ', map { "'$_'" } @order) . ']',
        resolver => ", resolver => 'public.resolve_$name(public.$name, public.$name, public.$name, text)'");
    my @set = ("set_conflict_policy('$name', '$row'" . ($options{$row} // '') . ')');
    push @set, map { "set_conflict_policy('$name', '$by_type->{$_}', '$_'" . ($options{ $by_type->{$_} } // '') . ')' } sort keys %$by_type;
    push @set, "set_conflict_policy('$name', '$unique', 'unique_violation')";
    push @set, map { "set_column_policy('$name', '$_->[0]', '$_->[1]')" }
        [ n => 'delta' ], [ m => 'max' ], [ l => 'min' ], [ s => 'set_merge' ], [ h => 'hold' ], [ j => 'json_merge' ]
        if grep { $_ eq 'merge' } $row, values %$by_type;
    sql('a', join ";\n", map { "SELECT cozesync.$_" } @set);
    return;
}

# Each policy for all types; all policies, one a type, so that each meets each type; some of both
# on partitioned tables.
make_table("all_$_", $_, pick(qw(first_update_wins last_update_wins)), {}) for @policies;
for my $shift (0 .. $#policies)
{
    make_table("mix_$shift", pick(@policies), pick(qw(first_update_wins last_update_wins)),
        { map { $types[$_] => $policies[ ($_ + $shift) % @policies ] } 0 .. $#types });
}
make_table("part_$_", $_, 'first_update_wins', {}, 1) for qw(first_update_wins merge hold);
make_table('part_mix', 'node_order', 'first_update_wins', { truncate_write => 'hold', update_deleted => 'merge', insert_exists => 'resolver' }, 1);
everywhere('beats', 'CREATE TABLE beats (id uuid PRIMARY KEY DEFAULT gen_random_uuid())');

# --- work ---

sub assignment
{
    my ($table) = @_;
    my $member = pick(qw(a b));
    my $inner = pick(qw(x y));
    return pick('a = ' . int(rand 5), 'n = n + ' . (int(rand 13) - 3), 'm = ' . int(rand 10), 'l = ' . int(rand 10),
        's = ARRAY(SELECT x FROM unnest(ARRAY[\'x\', \'y\', \'z\']) x WHERE (x = ANY (s)) <> (x = \'' . pick(qw(x y z)) . '\') ORDER BY x)',
        'h = ' . int(rand 5), 'v = v + ' . pick(1, 1, 2, -2), $table =~ /^part/ ? 'v = v + 1' : 'u = ' . pick(qw('p' 'q' 'r' NULL)),
        "j = CASE WHEN jsonb_typeof(j) = 'object' THEN j ELSE '{}' END || '{\"$member\": " . (1 + int rand 3) . '}\'',
        "j = CASE WHEN jsonb_typeof(j) = 'object' THEN j - '$member' ELSE '{}' END",
        "j = CASE WHEN jsonb_typeof(j) = 'object' THEN j ELSE '{}' END || jsonb_build_object('o',
            CASE WHEN jsonb_typeof(j -> 'o') = 'object' THEN j -> 'o' ELSE '{}' END || '{\"$inner\": " . (1 + int rand 3) . '}\')',
        pick('j = \'2\'', "j = j"));
}

sub statement
{
    my ($table) = @_;
    my $id = pick(@keys);
    my $dice = rand;
    return "TRUNCATE $table" if $dice < 0.03 && $table =~ /^part|^mix/;
    return "DELETE FROM $table WHERE id = $id" if $dice < 0.15;
    return "INSERT INTO $table (id, a, n, v, u) VALUES ($id, " . int(rand 3) . ', ' . int(rand 10) . ', ' . int(rand 4) . ', '
        . ($table =~ /^part/ ? 'NULL' : pick(qw('p' 'q' 'r' NULL))) . ") ON CONFLICT (id) DO UPDATE SET " . assignment($table) if $dice < 0.5;
    my %set = map { (/^(\w+)/)[0] => $_ } map { assignment($table) } 1 .. pick(1, 1, 2, 3);
    return "UPDATE $table SET " . join(', ', values %set) . ' WHERE id ' . ($dice < 0.9 ? "= $id" : "IN ($id, " . pick(@keys) . ')');
}

# What fails (a CHECK, a unique value) changes nothing.
sub work
{
    my ($node) = @_;
    my $script = join '', map { my $t = $_; map { statement($t) . ";\n" } 1 .. pick(1, 2, 2, 3) } sort { rand() <=> 0.5 } sort keys %tables;
    $server->psql($node, $script, on_error_stop => 0);
    return;
}

# All that one node holds, to another.
sub sync
{
    my ($from, $to) = @_;
    my %upto = map { $_ => carry_no_wait($from, $to, $_) } sort { rand() <=> 0.5 } grep { $_ ne $to } @nodes;
    my $ok = 1;
    $ok &&= wait_applied($to, $_, $upto{$_}) for keys %upto;
    return $ok;
}

sub sync_all
{
    my $ok = 1;
    for (1, 2)
    {
        for my $from (@nodes)
        {
            $ok &&= sync($from, $_) for grep { $_ ne $from } @nodes;
        }
    }
    return $ok;
}

ok(sync_all(), scalar(keys %tables) . ' tables under policies');
for my $round (1 .. $rounds)
{
    for (1 .. 3)
    {
        work($_) for @nodes;
        my $ok = 1;
        for (1 .. pick(0, 1, 2, 3))
        {
            my ($from, $to) = sort { rand() <=> 0.5 } @nodes;
            $ok &&= sync($from, $to);
        }
        last if !$ok && !ok(0, "round $round: entries arrive");
    }
    ok(sync_all(), "round $round: everything arrives") if rand() < 0.6 || $round == $rounds;
}

# --- what came of it ---

sub json_of
{
    my ($node, $sql) = @_;
    return decode_json(sql($node, $sql) || '[]');
}

my $hlc = '(extract(epoch FROM %s) * 1000000)::bigint - 946684800000000';
sub hlc { return sprintf $hlc, $_[0] }

my %given = (tables => \%tables, keys => [ map { $_ + 0 } @keys ]);
$given{entries} = json_of('a', 'SELECT json_agg(json_build_array(origin, ' . hlc('hlc') . q{, (
    SELECT coalesce(json_object_agg(key, CASE WHEN value ~ '^-?[0-9]+$' THEN value::bigint ELSE } . hlc('value::timestamptz') . q{ END), '{}')
      FROM jsonb_each_text(seen)))) FROM cozesync.entries()});
$given{changes} = json_of('a', 'SELECT json_agg(json_build_array(origin, ' . hlc('hlc') . q{, replace(relation, 'public.', ''), operation,
    (key ->> 'id')::int, old_row, new_row)) FROM cozesync.changes()});
for my $node (@nodes)
{
    for my $table (keys %tables)
    {
        $given{rows}{$node}{$table} = json_of($node, "SELECT json_agg(json_build_array(id, to_jsonb(t))) FROM $table t");
        $given{conflicts}{$node}{$table} = json_of($node, "SELECT json_agg(json_build_array((key ->> 'id')::int, l.node_name, loser_hlc,
            d.node_name, decided_hlc, outcome)) FROM cozesync.conflict c JOIN cozesync.member l ON l.origin = loser_origin
            JOIN cozesync.member d ON d.origin = decided_origin WHERE table_name = '$table'");
    }
}

for my $table (sort keys %tables)
{
    unlike(same($table), qr/\|/, "$table: the same rows on all nodes");
    my @logs = map { sql($_, "SELECT string_agg(concat_ws(' ', key, conflict_type, policy, outcome = 'held', loser_origin, loser_hlc,
        decided_origin, decided_hlc), ', ' ORDER BY loser_hlc, decided_hlc, key::text) FROM cozesync.conflict WHERE table_name = '$table'") } @nodes;
    is($logs[$_], $logs[0], "$table: the same conflict log on $nodes[$_] as on a") for 1, 2;
}
is(sql($_, "SELECT count(*) FROM cozesync.conflict WHERE reason LIKE 'nothing in the change log%'"), 0, "nothing unexplained on $_") for @nodes;
my $types = sql('a', "SELECT string_agg(DISTINCT conflict_type || ' ' || policy, ', ') FROM cozesync.conflict");
note "met: $types";

my ($in, $out, $err) = (encode_json(\%given), '', '');
if ($ENV{KEEP_GIVEN})
{
    open my $keep, '>', $ENV{KEEP_GIVEN} or die;
    print $keep $in;
    close $keep;
}
IPC::Run::run([ 'python3', "$FindBin::RealBin/../policy_oracle.py" ], '<', \$in, '>', \$out, '2>', \$err);
is($err, '', 'the model takes the log');
my @said = split /\n/, $out;
like($said[-1] // '', qr/^compared \d+ rows and \d+ conflicts$/, $said[-1] // 'nothing');
is(join("\n", grep { !/^compared/ } @said[ 0 .. ($#said > 15 ? 15 : $#said) ]), '', 'rows and conflicts are the model\'s on all nodes');

done_testing();
