# Under steady load at full speed the change log does not grow after its first minute,
# and the catalog does not bloat.
#
# Two nodes, pgbench on both for CHAOS_SECONDS (600); the sizes are looked at every five
# seconds.  `make steady` runs it; 063_log_size.pl is the short version.

use strict;
use warnings;
use Cwd ();
use File::Basename qw(dirname);
use lib dirname(Cwd::abs_path(__FILE__)) . '/../lib';
use CozeTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{CHAOS_SECONDS} // 600;
my $settle = $seconds / 10;
my @nodes = new_group(
    nodes => [qw(a b)],
    conf => q{
        cozesync.segment_size = '16MB'
        cozesync.beat_interval = '1s'
        log_min_messages = warning
        max_wal_size = '512MB'
    },
    schema => q{
        CREATE TABLE t (id int PRIMARY KEY, n bigint, v text);
        INSERT INTO t SELECT g, 0, repeat('x', 300) FROM generate_series(1, 100000) g;
    });
my $script = PostgreSQL::Test::Utils::tempdir() . '/update.sql';
append_to_file($script, "\\set id random(1, 100000)\nUPDATE t SET n = n + 1, v = repeat('y', 300) WHERE id = :id;\n");

my @out;
my @runs = map {
    push @out, my $out = \my $text;
    IPC::Run::start([ $_->installed_command('pgbench'), '-n', '-f', $script, '-c', 2, '-T', $seconds,
        $_->connstr('postgres') ], '<', \undef, '>', $out, '2>&1')
} @nodes;

my @seen;                       # [second, node, log, catalog]
my $begin = time;
while (time - $begin < $seconds - 5)
{
    $nodes[0]->safe_psql('postgres', 'SELECT pg_sleep(5)');
    $_->pump_nb for @runs;
    for my $node (@nodes)
    {
        push @seen, [ time - $begin, $node->name, split /\|/, $node->safe_psql('postgres', q{
            SELECT log_bytes, (SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace),
                   coalesce(extract(epoch FROM now() - cut), 0)::numeric(10,1)
              FROM cozesync.stats}) ];
    }
}
$_->finish for @runs;
is(scalar(grep { $_->result(0) } @runs), 0, 'pgbench ran to its end');
note join ' ', map { $$_ =~ /(tps = [\d.]+|latency average = [\d.]+ ms)/g } @out;

sub most
{
    my ($column, $from, $to) = @_;
    my ($most) = sort { $b <=> $a } map { $_->[$column] } grep { $_->[0] >= $from && $_->[0] < $to } @seen;
    return $most;
}

for (my $at = 0; $at < $seconds; $at += $settle)
{
    my @sizes = map { most($_, $at, $at + $settle) // next } 2 .. 4;
    note sprintf '%4d s: log at most %.1f MB, catalog %.1f MB, cut %.1f s behind', $at, $sizes[0] / 1e6, $sizes[1] / 1e6, $sizes[2];
}
cmp_ok(most(2, $settle, $seconds), '<=', 1.25 * most(2, 0, $settle) + 16e6, 'the log does not grow after a tenth of the time');
cmp_ok(most(3, $settle, $seconds) - most(3, 0, $settle), '<', 5e6, 'nor does the catalog');
ok(wait_quiet(@nodes), 'in sync');
same_rows(\@nodes, ['t'], 'the same rows');

done_testing();
