/*-------------------------------------------------------------------------
 *
 * wire_crc.c
 *		CRC-32C: the server's, or a plain one where there is no server.
 *
 *-------------------------------------------------------------------------
 */
#include "base/wire_read.h"

#ifdef COZE_STANDALONE

/* The Castagnoli polynomial, bits reflected. */
#define POLYNOMIAL 0x82F63B78

uint32
coze_wire_crc(const char *data, Size size)
{
	static uint32 table[256];
	uint32		crc = 0xFFFFFFFF;

	if (table[1] == 0)
	{
		for (uint32 i = 0; i < 256; i++)
		{
			uint32		value = i;

			for (int bit = 0; bit < 8; bit++)
				value = (value >> 1) ^ ((value & 1) ? POLYNOMIAL : 0);
			table[i] = value;
		}
	}
	for (Size i = 0; i < size; i++)
		crc = (crc >> 8) ^ table[(crc ^ (uint8) data[i]) & 0xFF];
	return crc ^ 0xFFFFFFFF;
}

#else

#include "port/pg_crc32c.h"

uint32
coze_wire_crc(const char *data, Size size)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, size);
	FIN_CRC32C(crc);
	return crc;
}

#endif							/* COZE_STANDALONE */
