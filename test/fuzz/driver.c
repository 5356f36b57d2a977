/*-------------------------------------------------------------------------
 *
 * driver.c
 *		A plain mutating fuzzer, for machines without libFuzzer.
 *
 * Takes the options of libFuzzer that run.sh uses: -max_total_time=SECONDS and
 * folders or files of seeds.  It knows nothing of coverage; seeds that encoders
 * made bring it far enough in.
 *
 *-------------------------------------------------------------------------
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_SEEDS 4096
#define MAX_SIZE 8192

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Seed
{
	uint8_t    *data;
	size_t		size;
} Seed;

static Seed seeds[MAX_SEEDS];
static int	nseeds = 0;
static uint64_t state = 88172645463325252ULL;

static uint32_t
pick(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t) ((state >> 32) % below);
}

static void
load_file(const char *path)
{
	FILE	   *file = fopen(path, "rb");
	uint8_t    *data = malloc(MAX_SIZE);

	if (file == NULL || data == NULL || nseeds == MAX_SEEDS)
		abort();
	seeds[nseeds].data = data;
	seeds[nseeds++].size = fread(data, 1, MAX_SIZE, file);
	fclose(file);
}

static void
load(const char *path)
{
	DIR		   *dir = opendir(path);
	struct dirent *entry;

	if (dir == NULL)
	{
		load_file(path);
		return;
	}
	while ((entry = readdir(dir)) != NULL)
	{
		char		name[4096];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		load_file(name);
	}
	closedir(dir);
}

/* Change, cut, insert or splice a few bytes. */
static size_t
mutate(uint8_t *data, size_t size)
{
	static const uint8_t special[] = {0, 1, 0x7f, 0x80, 250, 251, 252, 253, 254, 255};

	for (uint32_t n = 1 + pick(4); n > 0; n--)
	{
		size_t		at = size > 0 ? pick((uint32_t) size) : 0;
		const Seed *other = &seeds[pick((uint32_t) nseeds)];

		switch (pick(6))
		{
			case 0:
				if (size > 0)
					data[at] ^= (uint8_t) (1 << pick(8));
				break;
			case 1:
				if (size > 0)
					data[at] = special[pick(sizeof(special))];
				break;
			case 2:
				if (size > 0)
					data[at] = (uint8_t) (data[at] + pick(9) - 4);
				break;
			case 3:
				size = at;
				break;
			case 4:
				if (size < MAX_SIZE)
				{
					memmove(data + at + 1, data + at, size - at);
					data[at] = (uint8_t) pick(256);
					size++;
				}
				break;
			case 5:
				if (other->size > 0)
				{
					size_t		from = pick((uint32_t) other->size);
					size_t		length = other->size - from;

					if (length > MAX_SIZE - at)
						length = MAX_SIZE - at;
					memcpy(data + at, other->data + from, length);
					size = at + length;
				}
				break;
		}
	}
	return size;
}

/* An exact copy, so that a sanitizer sees each byte too far. */
static void
run_one(const uint8_t *data, size_t size)
{
	uint8_t    *copy = malloc(size > 0 ? size : 1);

	if (copy == NULL)
		abort();
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

int
main(int argc, char **argv)
{
	static uint8_t data[MAX_SIZE + 1];
	long		seconds = 1;
	uint64_t	runs = 0;
	time_t		end;

	for (int i = 1; i < argc; i++)
	{
		if (strncmp(argv[i], "-max_total_time=", 16) == 0)
			seconds = atol(argv[i] + 16);
		else if (argv[i][0] != '-')
			load(argv[i]);
	}
	if (nseeds == 0)
		nseeds = 1;				/* the empty one */
	for (int i = 0; i < nseeds; i++, runs++)
		run_one(seeds[i].data ? seeds[i].data : data, seeds[i].size);
	end = time(NULL) + seconds;
	while ((runs & 1023) != 0 || time(NULL) < end)
	{
		const Seed *seed = &seeds[pick((uint32_t) nseeds)];

		if (seed->size > 0)
			memcpy(data, seed->data, seed->size);
		run_one(data, mutate(data, seed->size));
		runs++;
	}
	fprintf(stderr, "stat::number_of_executed_units: %llu\n", (unsigned long long) runs);
	return 0;
}
