# Five nodes in a chain: what the first writes is soon on the last, and servers that are
# killed between them lose nothing.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;
use Time::HiRes qw(usleep);

my @nodes = map { new_node($_) } qw(a b c d e);
my ($a, $b, $c, $d, $e) = @nodes;
$a->safe_psql('postgres', sprintf(q{
    CREATE TABLE t (node text, id int, v text, PRIMARY KEY (node, id));
    SELECT cozesync.create_group('g', node_name => 'a', dsn => '%s');
    SELECT cozesync.add_schema('public')}, node_dsn($a)));
join_node($nodes[$_], $nodes[ $_ - 1 ], direct_links => 'false') for 1 .. 4;
ok(wait_quiet(@nodes), 'a chain of five');
is($c->safe_psql('postgres', q{SELECT string_agg(source || target, ' ' ORDER BY source, target) FROM cozesync.links}),
    'bc cb cd dc', 'each has links with its neighbours only');

# --- how long it takes ------------------------------------------------------------------

# When the row came to the last node, by a trigger of its own.
$e->safe_psql('postgres', q{
    CREATE TABLE came (id int, at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.came VALUES (new.id); RETURN NULL; END';
    CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW WHEN (new.id > 1000000) EXECUTE FUNCTION note();
    ALTER TABLE t ENABLE ALWAYS TRIGGER note});
for my $n (1 .. 10)
{
    $a->safe_psql('postgres', "INSERT INTO t VALUES ('a', 1000000 + $n, clock_timestamp()::text)");
    poll_until($e, "SELECT count(*) = 1 FROM t WHERE id = 1000000 + $n");
}
my ($best, $median) = split /\|/, $e->safe_psql('postgres', q{
    SELECT min(took), percentile_disc(0.5) WITHIN GROUP (ORDER BY took)
      FROM (SELECT extract(epoch FROM c.at - t.v::timestamptz) AS took FROM came c JOIN t USING (id)) s});
cmp_ok($best, '<', 1, "a write of the first is on the last after $best s (median $median s)");
$e->safe_psql('postgres', 'DROP TRIGGER note ON t');

# --- servers killed in turn --------------------------------------------------------------

# Kill a server's processes, all at once, and wait until they are gone.
sub kill_server
{
    my ($node) = @_;
    my ($pid) = slurp_pid($node);
    my @all = split /\n/, $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()");
    kill 'KILL', $pid, @all;
    my $limit = time + 60;
    usleep(20_000) while (grep { kill 0, $_ } $pid, @all) && time < $limit;
    $node->{_pid} = undef;
    return;
}

sub slurp_pid
{
    my ($node) = @_;
    open my $file, '<', $node->data_dir . '/postmaster.pid' or die $!;
    return (split /\n/, join '', <$file>)[0];
}

my $first = 2_000_000;
for my $round (1 .. 2)
{
    for my $victim ($b, $c, $d)
    {
        $first += 10_000;
        my @writers = map {
            my $name = $_->name;
            background($_, qq{
                DO 'BEGIN FOR i IN 1 .. 300 LOOP
                    INSERT INTO t VALUES (''$name'', $first + i, repeat(''x'', 100)); COMMIT;
                END LOOP; END';
                INSERT INTO t SELECT '$name', $first + 1000 + g, repeat('y', 500) FROM generate_series(1, 2000) g;
                \\q
                });
        } $a, $e;
        usleep(rand 400_000);
        kill_server($victim);
        usleep(rand 300_000);
        $victim->start;
        is((join '', map { ($_->finish)[2] } @writers), '', 'the ends went on writing while ' . $victim->name . ' was away');
    }
}
ok(wait_quiet(@nodes), 'all arrives');
is($_->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id > 2000000'), 2 * 3 * 2 * 2300, $_->name . ' has everything')
    for @nodes;
same_rows(\@nodes, ['t']);

done_testing();
